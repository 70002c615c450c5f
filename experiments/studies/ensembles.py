"""Ensembles: what does each further member give?

cnn-lab study ensembles

2 CPU cores (Zen 5): 40 trainings in 2 minutes; 1 member 0.937, 5 members 0.946, 10 members 0.947;
all claims hold.
"""

from cnn_lab.config import (
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
    Variant,
)

NET, MEASURE, EPOCHS = "LeNet-5", "accuracy of the ensemble", 20
LARGEST = 10


def get_study() -> Study:
    config = ExperimentConfig(
        data=DataConfig(name="mnist", pad=2, num_train=1000, num_validation=1000),
        model=ModelConfig(name="lenet5", options={"activation": "relu", "pooling": "max"}),
        optim=OptimConfig(name="adam", learning_rate=2e-3, schedule=ScheduleConfig(name="cosine")),
        train=TrainConfig(num_epochs=EPOCHS, batch_size=50),
        evaluate=EvaluateConfig(every_epochs=EPOCHS),
    )

    def counted(size: int) -> str:
        return "single nets" if size == 1 else f"ensembles of {size}"

    def better(size: int, than: int) -> Comparison:
        return Comparison(
            text=f"Ensembles of {size} are right on more unseen digits than {counted(than)}.",
            measure=MEASURE,
            larger=(NET, size),
            smaller=(NET, than),
        )

    return Study(
        title="Ensembles of LeNet-5, trained on 1,000 images of MNIST",
        question="Probabilities of nets that differ in their weights and order of examples alone "
        "are averaged. How does the accuracy on unseen digits grow with their number? Of every ten "
        "nets on the same images, each is in one ensemble of a size, and the mean of those is one "
        "value; the next ten have other images.",
        variants=(Variant(series=NET, config=config),),
        measures=(),
        over_seeds=(MEASURE,),
        num_seeds=4 * LARGEST,
        seeds_per_split=LARGEST,
        panels=(Panel(measure=MEASURE, x="members"),),
        claims=(better(2, 1), better(5, 1), better(5, 2), better(LARGEST, 5)),
    )
