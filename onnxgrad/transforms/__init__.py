"""The public functions from a model to a model, and what they share: options, the job, the notes in
metadata. They import `engine` and all before it.
"""
