"""Data sets: folders, tables, streams, targets, the catalog, duplicates, split, batches and augmentation."""
