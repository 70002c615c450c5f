"""Ensembles: what does each further member give?

cnn-lab study ensembles

2 CPU cores (Zen 5): 10 trainings in 67 s; 1 member 0.945, 5 members 0.954; all claims hold.
"""

from cnn_lab.config import (
    Comparison,
    DataConfig,
    EvaluateConfig,
    ExperimentConfig,
    ModelSpec,
    OptimConfig,
    Panel,
    ScheduleConfig,
    Study,
    TrainConfig,
    Variant,
)

NET, MEASURE, EPOCHS = "LeNet-5", "accuracy of the ensemble", 20


def get_study() -> Study:
    config = ExperimentConfig(
        data=DataConfig(name="mnist", pad=2, num_train=1000, num_validation=1000),
        model=ModelSpec(name="lenet5", options={"activation": "relu", "pooling": "max"}),
        optim=OptimConfig(name="adam", learning_rate=2e-3, schedule=ScheduleConfig(name="cosine")),
        train=TrainConfig(num_epochs=EPOCHS, batch_size=50),
        evaluate=EvaluateConfig(every_epochs=EPOCHS),
    )

    def better(size: int, than: int) -> Comparison:
        return Comparison(
            text=f"{size} members are better than {than}.",
            measure=MEASURE,
            larger=(NET, size),
            smaller=(NET, than),
        )

    return Study(
        title="Ensembles of LeNet-5, trained on 1,000 images of MNIST",
        question="Probabilities of nets from several seeds are averaged. How does the accuracy on "
        "unseen digits grow with their number? (The ensembles share members, so that intervals are "
        "narrower than those of independent ones.)",
        variants=(Variant(series=NET, config=config),),
        measures=("unseen accuracy",),
        over_seeds=(MEASURE,),
        num_seeds=10,
        panels=(Panel(measure=MEASURE, x="members"),),
        claims=(better(2, 1), better(5, 1), better(5, 2), better(10, 5)),
    )
