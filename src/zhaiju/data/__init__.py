"""Records, file formats, the dataset doctor, windows and batches. Imports nothing else of zhaiju but `errors`."""
