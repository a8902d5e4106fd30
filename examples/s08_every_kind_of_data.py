"""S8. The same photographs from a folder, a table, memory and `tf.data`; never all of them in memory.

python examples/s08_every_kind_of_data.py PHOTOS
"""

import sys

import keras

from regraft import Catalog


def main(photos, *, image_size=224):
    folder = Catalog.from_folder(photos)
    columns = {
        "image": [sample.path for sample in folder.samples],
        "label": [folder.words(sample) for sample in folder.samples],
    }
    table = Catalog.from_table(columns, image="image", target="label", root=photos)

    dataset = keras.utils.image_dataset_from_directory(
        photos, image_size=(image_size, image_size), batch_size=8, shuffle=False
    )
    stream = Catalog.from_stream(dataset)  # read once, picture by picture

    pixels, labels = next(iter(dataset.unbatch().batch(len(folder))))
    memory = Catalog.from_arrays(pixels.numpy(), labels.numpy(), names=dataset.class_names)
    return {"folder": folder, "table": table, "stream": stream, "memory": memory}  # each goes into `train`


if __name__ == "__main__":
    for kind, catalog in main(sys.argv[1]).items():
        print(kind, len(catalog), catalog.task, catalog.outputs)
