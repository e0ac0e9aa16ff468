import numpy as np

from tests.samples import Sample, distinct, normal, uniform


def _batch(*shape: int) -> list:
    c = shape[1] if len(shape) > 1 else 1
    return [normal(*shape), normal(c), normal(c), normal(c), uniform(0.5, 2, c)]


SAMPLES = [
    *(
        Sample("BatchNormalization", _batch(*s), {"epsilon": 0.1})
        for s in ((2, 3), (4,), (2, 3, 4), (2, 3, 2, 2), (1, 1, 3), (0, 2, 3))
    ),
    *(
        Sample(
            "BatchNormalization",
            _batch(*s),
            {"training_mode": 1, "momentum": 0.7},
            outputs=3,
            of=of,
            wrt=wrt,
            note=f"of={of}",
        )
        for s in ((4, 3), (2, 3, 4), (2, 2, 2, 3))
        for of, wrt in (([0], [0, 1, 2]), ([1], [0, 3]), ([2], [0, 4]), (None, None))
    ),
    *(
        Sample("InstanceNormalization", [normal(*s), normal(s[1]), normal(s[1])], {"epsilon": 0.1})
        for s in ((2, 3, 4), (1, 2, 3, 2), (2, 1, 2, 2, 2))
    ),
    # The statistics are float32 even where X is float64: as outputs they are checked in float32.
    *(
        Sample("LayerNormalization", [normal(2, 3, 4), normal(*s), normal(*b)], {"axis": a}, of=[0])
        for s, b, a in (((4,), (4,), -1), ((3, 4), (3, 4), 1), ((3, 1), (4,), 1), ((), (1,), 0))
    ),
    Sample("LayerNormalization", [normal(2, 5), normal(5)], {"epsilon": 0.1}),
    *(
        Sample(
            "LayerNormalization",
            [normal(2, 3, 4), *(normal(*s) for s in others)],
            {"axis": a},
            outputs=3,
            single=True,
            tolerance=3e-3,
        )
        for others, a in ((((4,), (4,)), -1), (((3, 4),), 1))
    ),
    *(
        Sample(
            "GroupNormalization",
            [normal(*s), normal(s[1]), normal(s[1])],
            {"num_groups": n, "epsilon": 0.1, "stash_type": 11},  # float64, not 32
        )
        for s, n in (
            ((2, 4, 3), 2),
            ((2, 2, 2, 2), 1),
            ((1, 3, 2, 2), 3),
            ((2, 4), 2),
        )
    ),
    *(
        Sample("RMSNormalization", [normal(2, 3, 4), normal(*s)], {"axis": a}, opset=23)
        for s, a in (((4,), -1), ((3, 4), 1), ((3, 1), -2), ((), 0), ((1,), 2))
    ),
    *(
        Sample("LRN", [normal(*s)], {"size": n, "alpha": 0.5, "beta": 0.7, "bias": 1.2})
        for s, n in (((2, 4, 2, 3), 3), ((1, 5, 2, 1), 5), ((1, 4, 2, 2), 2), ((1, 3, 1, 2), 1))
    ),
    *(
        Sample("LpNormalization", [distinct(2, 3, 4)], {"axis": a, "p": p}, opset=22)
        for a, p in ((-1, 1), (1, 1), (-1, 2), (0, 2), (2, 2))
    ),
    # No runtime has it in float64.
    *(
        Sample("MeanVarianceNormalization", [normal(*s)], a, single=True, tolerance=3e-3)
        for s, a in (
            ((2, 3, 2, 2), {"axes": [0, 2, 3]}),
            ((2, 3, 4), {"axes": [0, 2]}),
            ((2, 3, 4), {"axes": [-1]}),
        )
    ),
    # onnxruntime draws another mask in every run, the reference evaluator the same one from a seed.
    *(
        Sample(
            "Dropout",
            [normal(2, 3), *others],
            {"seed": 3},
            outputs=n,
            of=[0],
            wrt=[0, 1] if True in others else [0],  # elsewhere the ratio does nothing
            reference=True,
        )
        for others in (
            [],
            [np.array(0.3)],
            [np.array(0.3), np.array(False)],
            [np.array(0.3), np.array(True)],
            [np.array(0.0), np.array(True)],
        )
        for n in (1, 2)
    ),
]
