from tests.samples import Sample, distinct, normal

SAMPLES = [
    Sample("Relu", [distinct(2, 3)]),
    Sample("Sigmoid", [normal(2, 3)]),
    *(
        Sample(op, [normal(*shape)], {"axis": axis})
        for op in ("Softmax", "LogSoftmax")
        for shape, axis in [((2, 3), -1), ((2, 3, 4), 1), ((4,), 0)]
    ),
]
