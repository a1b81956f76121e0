"""The fetcher: brings the files of planned versions into the folder of models, for replicas that only read it."""
