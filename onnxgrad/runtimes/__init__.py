"""What runs a model: onnxruntime and onnx's reference evaluator, each in a module of its own, and
the ports that feeds are checked against. It imports `graph`.
"""
