"""What is known of a model without any gradient: how it is read and written, the names, dtypes,
ranks, sizes and contents of its tensors, schemas, function bodies, the errors. This folder
imports nothing else of the package.
"""
