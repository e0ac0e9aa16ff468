import numpy as np

from tests.samples import Sample, ints, normal, uniform

_MODES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")


def _resize(
    x: tuple[int, ...],
    scales: list[float] | None = None,
    sizes: list[int] | None = None,
    roi: list[float] | None = None,
    **attributes: object,
) -> Sample:
    operands = [
        normal(*x),
        None if roi is None else np.array(roi, np.float32),
        None if scales is None else np.array(scales, np.float32),
        None if sizes is None else ints(*sizes),
    ]
    while operands[-1] is None:
        operands.pop()
    fed = attributes.get("mode") == "linear"  # enough of them
    return Sample("Resize", operands, attributes, wrt=[0], fed=fed)


SAMPLES = [
    # every transformation of coordinates, larger and smaller, by scales and by sizes
    *(
        _resize((1, 2, 4, 5), **to, mode=mode, coordinate_transformation_mode=c)
        for c in _MODES
        for mode in ("nearest", "linear", "cubic")
        for to in ({"scales": [1, 1, 2, 0.6]}, {"sizes": [1, 2, 3, 7]})
        if "sizes" not in to or mode == "linear"
    ),
    *(
        _resize((1, 1, 4, 5), scales=[1, 1, 1.5, 0.7], nearest_mode=n)
        for n in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
    # by whole factors
    *(
        _resize((2, 3, 2, 3), scales=[1, 1, 3, 2], coordinate_transformation_mode=c, nearest_mode=n)
        for c, n in (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"))
    ),
    # a part of it
    *(
        _resize(
            (1, 2, 4, 5),
            sizes=[1, 2, 5, 4],
            roi=[0, 0, 0.2, -0.3, 1, 1, 0.9, 1.2],
            mode=mode,
            coordinate_transformation_mode="tf_crop_and_resize",
            extrapolation_value=7.0,
        )
        for mode in ("nearest", "linear", "cubic")
    ),
    _resize(
        (1, 2, 4, 5),
        scales=[1.6],  # a whole number of elements, which the runtimes round differently
        roi=[0.1, 0.8],
        axes=[3],
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
    # the crop itself, between the elements
    *(
        Sample(
            "Resize",
            [normal(2, 1, 4, 5), np.array([0.13, -0.37, 0.91, 1.23]), None, ints(*sizes)],
            {
                "mode": mode,
                "axes": [2, 3],
                "coordinate_transformation_mode": "tf_crop_and_resize",
                "cubic_coeff_a": -0.5,
            },
            smooth=False,  # where a point lies between its neighbours is taken as constant
            single=mode == "cubic",
            tolerance=3e-3 if mode == "cubic" else 1e-6,
        )
        for mode, sizes in (("linear", (5, 4)), ("cubic", (3, 6)), ("linear", (1, 3)))
    ),
    # antialias, cubic's parameters
    *(
        _resize((1, 1, 6, 7), sizes=[1, 1, 3, 4], mode=mode, antialias=1, exclude_outside=e)
        for mode, e in (("linear", 0), ("cubic", 0), ("cubic", 1))
    ),
    _resize((1, 1, 4, 5), [1, 1, 2, 1.5], mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    # axes, other ranks
    _resize((2, 3, 4), scales=[1, 1, 1.5], mode="linear"),
    _resize((3, 4), sizes=[5, 2], mode="linear"),
    _resize((1, 2, 3, 4, 2), scales=[1, 1, 1.5, 2, 2], mode="linear"),
    _resize((2, 3, 2, 4), sizes=[3, 4], axes=[3, 2], mode="linear"),
    _resize((2, 3, 2), scales=[2, 2, 1.5]),
    # one scale for all axes
    *(
        _resize((1, 2, 4, 5), sizes=[6, 9], axes=[2, 3], mode=mode, keep_aspect_ratio_policy=policy)
        for policy in ("not_larger", "not_smaller")
        for mode in ("nearest", "linear")
    ),
]


def _points(*shape: int) -> np.ndarray:
    """Coordinates inside and beyond the image, away from the kinks at elements and borders."""
    p = uniform(-1.6, 1.6, *shape)
    return np.round(p, 1) + 1 / 60


SAMPLES += [
    *(
        Sample(
            "GridSample",
            [normal(2, 2, 3, 4), _points(2, 2, 3, 2)],
            {"mode": mode, "padding_mode": padding, "align_corners": align},
            wrt=[0] if mode == "nearest" else None,
        )
        for mode in ("linear", "nearest", "cubic")
        for padding in ("zeros", "border", "reflection")
        for align in (0, 1)
    ),
    *(
        Sample(
            "GridSample",
            [normal(1, 2, 2, 3, 3), _points(1, 2, 1, 3, 3)],
            {"mode": mode, "padding_mode": padding, "align_corners": align},
            wrt=[0] if mode == "nearest" else None,
        )
        for mode, padding, align in (
            ("linear", "zeros", 0),
            ("linear", "reflection", 1),
            ("nearest", "border", 0),
        )
    ),
    *(
        Sample("AffineGrid", [normal(2, n, n + 1), ints(2, 3, *size)], {"align_corners": align})
        for n, size in ((2, (3, 4)), (3, (2, 3, 2)))
        for align in (0, 1)
    ),
]

# Boxes inside, across the border, beyond it, small, and of no extent.
_BOXES = np.array(
    [
        [0.6, 0.4, 3.7, 4.1],
        [1.2, 2.3, 6.9, 8.2],
        [-2.1, -1.7, 1.3, 2.2],
        [9.1, 9.3, 12.2, 11.4],
        [2.1, 1.3, 2.4, 1.5],
        [0.3, 0.2, 5.83, 0.9],
    ]
)
_IMAGES = np.random.default_rng(0).permutation(np.arange(-60, 60)).reshape(2, 2, 5, 6) / 30

SAMPLES += [
    *(
        Sample(
            "RoiAlign",
            # In the maximum fewer compete, so that no step makes another one win.
            [_IMAGES, _BOXES[:boxes], ints(0, 1, 1, 0, 0, 1)[:boxes]],
            {"mode": mode, "output_height": 2, "output_width": 3, "sampling_ratio": ratio, **more},
        )
        for mode, boxes in (("avg", 6), ("max", 3))
        for ratio in (0, 2)
        for more in (
            {"coordinate_transformation_mode": "half_pixel"},
            {"coordinate_transformation_mode": "output_half_pixel", "spatial_scale": 0.7},
        )
    ),
    Sample(
        "MaxRoiPool",
        # So far apart that no step in float32 makes another one the largest.
        [_IMAGES * 8, np.column_stack([[0, 1, 1, 0, 0, 1], _BOXES])],
        {"pooled_shape": [2, 3], "spatial_scale": 0.9},
        wrt=[0],
        single=True,  # no runtime has it in float64
        tolerance=2e-3,
    ),
]
