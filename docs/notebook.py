# %% [markdown]
# # Digits, from arrays to answers
#
# A notebook as a script: editors that know `# %%` run it cell by cell, and
# `python docs/notebook.py` as a whole, in less than a minute on two CPU cores. It writes into
# `runs/` of the current folder.

# %%
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import cnn_lab
from cnn_lab.config import TransferConfig

digits = load_digits()
images, labels = digits.images / 16, digits.target  # [1797 8 8] in [0, 1]; [1797]
seen, unseen = slice(0, 1200), slice(1200, None)

# %% [markdown]
# ## Train on your own arrays

# %%
data = cnn_lab.from_arrays(images[seen], labels[seen], name="digits")
print(data.info.split_sizes, data.info.class_names)

config = cnn_lab.ExperimentConfig()
config.model.name, config.model.options = "lenet5", {"activation": "relu", "pooling": "max"}
config.data.image_size = (32, 32)  # LeNet-5's
config.optim.name, config.optim.learning_rate = "adamw", 0.003
config.train.batch_size, config.train.num_epochs = 64, 6

# %%
run = cnn_lab.train(config, data)  # progress=True shows a bar
print(run)

# %% [markdown]
# The metrics are rows; `pandas.DataFrame(run.metrics())` makes a table of them.

# %%
for row in run.metrics():
    if row["split"] == "validation":
        print(f"epoch {row['epoch']:.0f}  accuracy {row['accuracy']:.3f}  loss {row['loss']:.3f}")

# %% [markdown]
# ## Evaluate and predict

# %%
held_out = run.evaluate()  # a tenth of the data, which the training held out
print({name: round(value, 3) for name, value in held_out.items()})
print(run.evaluate(cnn_lab.from_arrays(images[unseen], labels[unseen]))["accuracy"])

# %%
found = run.predict(images[unseen])
print(found.names[:10], labels[unseen][:10])
print(found.rows()[0], found.top(3)[0])

# %% [markdown]
# ## Features
#
# The named maps of the backbone; neighbours of an image in the last one look alike.

# %%
features = run.features(images[unseen])  # [597 120]
print(features.shape, run.features(images[unseen], "s2").shape)
distances = np.linalg.norm(features - features[0], axis=1)
print(labels[unseen][distances.argsort()[:8]])

# %% [markdown]
# ## Train further
#
# Odd or even, from a hundred images and the weights of the run: the head alone.

# %%
few = cnn_lab.from_arrays(images[:100], np.where(labels[:100] % 2, "odd", "even"), name="parity")
config = cnn_lab.ExperimentConfig()
config.transfer = TransferConfig(source=str(run.workdir), strategy="head")
config.optim.name, config.optim.learning_rate = "adamw", 0.01
config.train.batch_size, config.train.num_epochs = 16, 10
tuned = cnn_lab.train(config, few)
correct = np.array(tuned.predict(images[unseen]).names) == np.where(
    labels[unseen] % 2, "odd", "even"
)
print(correct.mean())

# %% [markdown]
# ## Predict a number
#
# Real labels are predicted as they are; metrics and predictions are in their unit.

# %%
ink = images.sum((1, 2))
config = cnn_lab.ExperimentConfig()
config.task.name = "regression"
config.model.name, config.model.options = "mlp", {"hidden": (32,)}
config.optim.name, config.optim.learning_rate = "adam", 0.003
config.train.batch_size, config.train.num_epochs = 64, 8
strokes = cnn_lab.train(
    config, cnn_lab.from_arrays(images[seen], ink[seen], value_names=["ink"], name="ink")
)
print(
    strokes.evaluate()["mae"],
    np.abs(strokes.predict(images[unseen]).values[:, 0] - ink[unseen]).mean(),
)

# %% [markdown]
# ## A loop of your own
#
# The pure step that every training runs, on batches of `image` [n h w c], normalised, and
# `label` [n].

# %%
model = cnn_lab.create_model("mlp", num_classes=10, hidden=(32,))
optimizer = optax.adam(0.003)
state = cnn_lab.init_state(model, optimizer, (8, 8, 1))
step = jax.jit(cnn_lab.make_train_step(model, cnn_lab.create_task("classification", 10), optimizer))

inputs = ((images - images[seen].mean()) / images[seen].std())[..., None].astype(np.float32)
order = np.random.default_rng(0)
for index in range(101):
    chosen = order.choice(1200, 64, replace=False)
    state, metrics = step(state, {"image": inputs[chosen], "label": labels[chosen]})
    if index % 25 == 0:
        total, count = metrics["loss"]
        print(index, float(total / count))

# %%
logits = model.apply({"params": state.params, **state.collections}, inputs[unseen], train=False)
print((logits.argmax(1) == labels[unseen]).mean())
