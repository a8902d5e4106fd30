"""The transfer-learning guide's recipe, as a newcomer types it: the yardstick of the benchmark.

A frozen MobileNetV2, dropout 0.2, one Dense layer, Adam 1e-3, 10 epochs over the images.

usage: guide_recipe.py DATA WEIGHTS
"""

import json
import sys

import keras

data, weights = sys.argv[1:3]
train = keras.utils.image_dataset_from_directory(
    f"{data}/train", validation_split=0.2, subset="training", seed=0, image_size=(224, 224), batch_size=32
)
validation = keras.utils.image_dataset_from_directory(
    f"{data}/train", validation_split=0.2, subset="validation", seed=0, image_size=(224, 224), batch_size=32
)
test = keras.utils.image_dataset_from_directory(
    f"{data}/test", image_size=(224, 224), batch_size=32, shuffle=False
)
base = keras.applications.MobileNetV2(include_top=False, weights=weights, input_shape=(224, 224, 3))
base.trainable = False
inputs = keras.Input((224, 224, 3))
x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
x = base(x, training=False)
x = keras.layers.GlobalAveragePooling2D()(x)
x = keras.layers.Dropout(0.2)(x)
outputs = keras.layers.Dense(len(train.class_names), activation="softmax")(x)
model = keras.Model(inputs, outputs)
model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(train, validation_data=validation, epochs=10, verbose=2)
top1 = model.evaluate(test, verbose=0)[1]
print(json.dumps({"top1": top1}))
