"""The recipe of Keras' transfer-learning guide, as a newcomer would write it, for comparison.

A frozen network, dropout 0.2, one Dense layer, Adam 1e-3, 10 epochs over the images. The last line holds its
score and the seconds of each epoch.

usage: guide_recipe.py DATA WEIGHTS|random [--backbone mobilenet_v2|resnet50] [--epochs 10]
"""

import argparse
import json
import time

import keras

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("weights")
parser.add_argument("--backbone", choices=["mobilenet_v2", "resnet50"], default="mobilenet_v2")
parser.add_argument("--epochs", type=int, default=10)
options = parser.parse_args()
weights = None if options.weights == "random" else options.weights
seconds = []


class Clock(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        seconds.append(time.monotonic() - self.start)


train = keras.utils.image_dataset_from_directory(
    f"{options.data}/train",
    validation_split=0.2,
    subset="training",
    seed=0,
    image_size=(224, 224),
    batch_size=32,
)
validation = keras.utils.image_dataset_from_directory(
    f"{options.data}/train",
    validation_split=0.2,
    subset="validation",
    seed=0,
    image_size=(224, 224),
    batch_size=32,
)
test = keras.utils.image_dataset_from_directory(
    f"{options.data}/test", image_size=(224, 224), batch_size=32, shuffle=False
)
inputs = keras.Input((224, 224, 3))
if options.backbone == "resnet50":
    base = keras.applications.ResNet50(include_top=False, weights=weights, input_shape=(224, 224, 3))
    x = keras.applications.resnet50.preprocess_input(inputs)
else:
    base = keras.applications.MobileNetV2(include_top=False, weights=weights, input_shape=(224, 224, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
base.trainable = False
x = base(x, training=False)
x = keras.layers.GlobalAveragePooling2D()(x)
x = keras.layers.Dropout(0.2)(x)
outputs = keras.layers.Dense(len(train.class_names), activation="softmax")(x)
model = keras.Model(inputs, outputs)
model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(train, validation_data=validation, epochs=options.epochs, verbose=2, callbacks=[Clock()])
top1 = model.evaluate(test, verbose=0)[1]
print(json.dumps({"top1": top1, "epochs": seconds}))
