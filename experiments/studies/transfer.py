"""Transfer learning, by the number of target images and by what is trained.

cnn-lab study transfer

Run as --data=folder:cifar10 on CIFAR-10 (JPEG copy), which is harder than CIFAR-10 itself; 2 CPU
cores (Zen 5): 126 trainings in about 80 minutes, partly as two processes. With 10, 30, 100,
300, 1,000 images a class and 3 seeds, unseen accuracy in %: from scratch 37, 47, 57, 61, 67; a new
head 49, 55, 59, 60, 61; the last stage too 53, 60, 68, 71, 73; all 50, 61, 69, 75, 77; gradual 54,
61, 70, 75, 76; logistic 49, 56, 61, 63, 63. From digits: head 30 to 38, all 37, 48, 59, 67, 70.
"""

from cnn_lab.config import (
    AugmentConfig,
    Comparison,
    DataConfig,
    EvaluateConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    Panel,
    ScheduleConfig,
    Study,
    TrainConfig,
    TransferConfig,
    Variant,
)

FIRST = ("airplane", "automobile", "cat", "deer", "ship")
SECOND = ("bird", "dog", "frog", "horse", "truck")
SIZES = {10: 150, 30: 200, 100: 300, 300: 450, 1000: 600}  # images a class, and updates
BATCH, MEASURE = 50, "unseen accuracy"
SCRATCH, HEAD, LAST, ALL = "from scratch", "head", "last stage", "all"
GRADUAL, LOGISTIC, DIGITS_HEAD, DIGITS_ALL = "gradual", "logistic", "digits: head", "digits: all"
# Strategy, rate and source; rates were chosen on validation images at 10 and 1000 a class.
WAYS = {
    SCRATCH: (None, 1e-2, None),
    HEAD: ("head", 1e-2, "half of CIFAR-10"),
    LAST: ("last_stages:1", 3e-3, "half of CIFAR-10"),
    ALL: ("all", 3e-3, "half of CIFAR-10"),
    GRADUAL: ("gradual", 3e-3, "half of CIFAR-10"),
    LOGISTIC: ("logistic", 1e-2, "half of CIFAR-10"),
    DIGITS_HEAD: ("head", 1e-2, "MNIST"),
    DIGITS_ALL: ("all", 3e-3, "MNIST"),
}


def config(data: DataConfig, rate: float, num_epochs: int, batch_size: int) -> ExperimentConfig:
    return ExperimentConfig(
        data=data,
        model=ModelConfig(name="resnet20", options={"width": 8}),
        optim=OptimConfig(name="adamw", learning_rate=rate, schedule=ScheduleConfig(name="cosine")),
        train=TrainConfig(num_epochs=num_epochs, batch_size=batch_size, log_every_steps=100),
        evaluate=EvaluateConfig(every_epochs=num_epochs),
    )


def target(name: str, way: str, size: int) -> Variant:
    strategy, rate, source = WAYS[way]
    alters = strategy not in ("head", "logistic")
    data = DataConfig(
        name=name,
        classes=SECOND,
        image_size=(32, 32),
        num_train=len(SECOND) * size,
        num_validation=500,
        augment=AugmentConfig(recipe="cifar", strength="light" if alters else "none"),
    )
    num_epochs = SIZES[size] * BATCH // (len(SECOND) * size)
    made = config(data, rate, num_epochs, BATCH)
    if strategy is not None:
        made.transfer = TransferConfig(strategy=strategy)
        if strategy == "gradual":
            made.transfer.epochs_per_stage = max(1, num_epochs // 8)
    return Variant(series=way, x=size, config=made, source=source and (source, None))


def get_study(data: str = "cifar10") -> Study:
    photos = DataConfig(
        name=data,
        classes=FIRST,
        image_size=(32, 32),
        num_train=20_000,
        num_validation=1000,
        augment=AugmentConfig(recipe="cifar", strength="light"),
    )
    digits = DataConfig(name="mnist", pad=2, channels=3, num_train=10_000, num_validation=1000)
    sources = {"half of CIFAR-10": (photos, 10), "MNIST": (digits, 3)}

    def higher(text: str, larger: str, smaller: str, size: int, by: float = 0.0) -> Comparison:
        text = f"With {size:,} images a class, {text}."
        places = {"larger": (larger, size), "smaller": (smaller, size)}
        return Comparison(text=text, measure=MEASURE, by=by, **places)

    return Study(
        title="Transfer between the halves of CIFAR-10, and from MNIST",
        question="A network of 68,000 parameters has learned to tell five classes of "
        f"{'CIFAR-10' if data == 'cifar10' else data}, or digits. Told to learn the other five "
        "classes from 10 to 1,000 images of each, by 150 to 600 updates: what of it should be "
        "trained, and how many unseen images are then right?",
        variants=(
            *(
                Variant(series=series, config=config(own, 3e-3, num_epochs, 128))
                for series, (own, num_epochs) in sources.items()
            ),
            *(target(data, way, size) for way in WAYS for size in SIZES),
        ),
        measures=(MEASURE,),
        panels=(
            Panel(
                measure=MEASURE,
                x="target images a class",
                log_x=True,
                title="Source: the other half of CIFAR-10",
                series=(SCRATCH, HEAD, LAST, ALL, GRADUAL, LOGISTIC),
            ),
            Panel(
                measure=MEASURE,
                x="target images a class",
                log_x=True,
                title="Source: digits of MNIST",
                series=(SCRATCH, DIGITS_HEAD, DIGITS_ALL),
            ),
        ),
        claims=(
            higher("a new head is better than training from scratch", HEAD, SCRATCH, 10),
            higher("a new head alone is better than training all", HEAD, ALL, 10),
            higher("the last stage too is better than the head alone", LAST, HEAD, 100),
            higher("training all is better than the head alone", ALL, HEAD, 1000),
            higher("training all is better than from scratch", ALL, SCRATCH, 1000),
            higher("from scratch is less than 3 points behind all", SCRATCH, ALL, 1000, -0.03),
            higher("gradual unfreezing is better than all at once", GRADUAL, ALL, 100),
            higher("logistic regression is at most 1 point behind", LOGISTIC, HEAD, 100, -0.01),
            higher("digits lend at most 2 points", SCRATCH, DIGITS_ALL, 100, -0.02),
            higher("a head on features of digits is 10 worse", HEAD, DIGITS_HEAD, 1000, 0.1),
        ),
    )
