"""The public functions from a model to a model, and the parts that they share: options, the job,
the metadata. They import `engine` and all folders before it.
"""
