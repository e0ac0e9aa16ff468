"""What is known of a model without any gradient: reading and writing it, names, dtypes, ranks,
sizes and contents of its tensors, schemas, function bodies, the errors. It imports nothing of
the package.
"""
