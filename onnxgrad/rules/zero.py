"""Operators whose derivative is zero wherever it exists, or that no floating-point path passes.

A user is shown the reason where one of them ends every path from a tensor to an output. At the end
stand operators without any rule.
"""

from onnxgrad.declare.registry import not_implemented, zero

zero(["Ceil", "Floor", "Round", "Sign"], reason="piecewise constant")
zero("Hardmax", reason="piecewise constant: a one-hot of the largest element")

zero(["ArgMax", "ArgMin"], reason="gives positions, which are integers")
zero("NonZero", reason="gives positions, which are integers")
zero("NonMaxSuppression", reason="gives the indices of the boxes kept, which are integers")
zero(
    ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsInf", "IsNaN"],
    reason="gives booleans",
)
zero(["And", "Not", "Or", "Xor"], reason="booleans in, booleans out")
zero(
    ["BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"],
    reason="integers in, integers out",
)

zero(["Shape", "Size"], reason="depends on its operand's shape alone")
zero("EyeLike", reason="depends on its operand's shape alone")
zero("CastLike", "target_type", reason="only its type is used")
zero("Constant", reason="has no operands")
zero("ConstantOfShape", reason="its operand is a shape")
zero(
    ["BlackmanWindow", "HammingWindow", "HannWindow"],
    reason="depends on a size, which is an integer",
)
zero("MelWeightMatrix", reason="the edges are rounded down to whole frequency bins")

# A sample is taken as it is: its distribution's parameters have no pathwise derivative here, which
# is PyTorch's answer too.
zero(["RandomNormal", "RandomUniform"], reason="random numbers; it has no operands")
zero(["RandomNormalLike", "RandomUniformLike"], reason="random numbers of its operand's shape")
zero(["Bernoulli", "Multinomial"], reason="draws whole numbers at random")

zero(
    ["RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"],
    reason="its operands are strings",
)
zero("TfIdfVectorizer", reason="counts n-grams of integers or strings")
zero("ImageDecoder", reason="bytes in, bytes out")

zero("SequenceLength", reason="gives a count, which is an integer")
zero("OptionalHasElement", reason="gives a boolean")

zero("ai.onnx.ml::Binarizer", reason="piecewise constant")
for _trees in ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"):
    zero(f"ai.onnx.ml::{_trees}", reason="decision trees are piecewise constant")
zero(
    ["ai.onnx.ml::CategoryMapper", "ai.onnx.ml::LabelEncoder", "ai.onnx.ml::OneHotEncoder"],
    reason="looks categories up in a table",
)
zero(
    ["ai.onnx.ml::CastMap", "ai.onnx.ml::DictVectorizer"],
    reason="its operand is a map, through which no gradient comes",
)
zero("ai.onnx.ml::ZipMap", reason="gives maps, through which no gradient comes")

# -- no rule: what belongs to one machine ----------------------------------------------------------

for _op in ("AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReorderInput",
            "ReorderOutput", "Upsample"):  # fmt: skip
    not_implemented(
        f"com.microsoft.nchwc::{_op}",
        reason="onnxruntime's layout for one machine, which it writes at ORT_ENABLE_ALL; take the "
        "net as it was, or optimised at ORT_ENABLE_EXTENDED",
    )
