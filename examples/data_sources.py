"""Read the same images from a folder, a table, `tf.data` and memory.

System S8 of docs/gallery.md.

Only the arrays are in memory all at once.

    python examples/data_sources.py IMAGES
"""

import sys

import keras

from regraft import Catalog


def main(images, *, image_size=224):
    folder = Catalog.from_folder(images)
    columns = {
        "image": [sample.path for sample in folder.samples],
        "label": [folder.describe_target(sample) for sample in folder.samples],
    }
    table = Catalog.from_table(columns, image="image", target="label", root=images)

    dataset = keras.utils.image_dataset_from_directory(
        images, image_size=(image_size, image_size), batch_size=8, shuffle=False
    )
    stream = Catalog.from_stream(dataset)  # read once, one image at a time

    pixels, labels = next(iter(dataset.unbatch().batch(len(folder))))
    memory = Catalog.from_arrays(pixels.numpy(), labels.numpy(), names=dataset.class_names)
    return {
        "folder": folder,
        "table": table,
        "stream": stream,
        "memory": memory,
    }  # `train` takes each of them


if __name__ == "__main__":
    for kind, catalog in main(sys.argv[1]).items():
        print(kind, len(catalog), catalog.task, catalog.outputs)
