import numpy as np

from tests.samples import Sample, ints, normal, uniform


def _conv(
    x: tuple[int, ...], w: tuple[int, ...], bias: bool = False, note: str = "", **attributes: object
) -> Sample:
    b = [normal(w[0])] if bias else []
    return Sample("Conv", [normal(*x), normal(*w), *b], dict(attributes), note=note)


SAMPLES = [
    # 1-D to 3-D, bias present and absent
    _conv((2, 3, 7), (4, 3, 3), bias=True),
    _conv((2, 3, 5, 6), (4, 3, 3, 2), bias=True),
    _conv((1, 2, 4, 4, 5), (2, 2, 2, 3, 2)),
    # kernel 1, with and without a stride
    _conv((2, 3, 4, 4), (4, 3, 1, 1), bias=True),
    _conv((2, 3, 5, 4), (4, 3, 1, 1), strides=[2, 3]),
    # padding, also lopsided, and beyond the reach of the window
    _conv((2, 2, 5, 5), (3, 2, 3, 3), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    _conv((2, 2, 5, 4), (3, 2, 3, 3), kernel_shape=[3, 3], pads=[0, 1, 2, 0]),
    _conv((1, 2, 5, 4), (3, 2, 2, 2), kernel_shape=[2, 2], pads=[0, 2, 3, 0]),
    # kernels of many elements
    _conv((2, 2, 11, 11), (2, 2, 9, 8), kernel_shape=[9, 8], pads=[1, 0, 0, 1]),
    _conv((2, 2, 70), (4, 1, 65), kernel_shape=[65], group=2, strides=[2], dilations=[1]),
    _conv((1, 1, 72), (1, 1, 66), kernel_shape=[66], auto_pad="SAME_UPPER", strides=[3]),
    # many places
    _conv((2, 2, 520), (3, 2, 3), dilations=[2], pads=[1, 2]),
    _conv((1, 1, 26, 24), (2, 1, 3, 2), kernel_shape=[3, 2]),
    # one channel and long steps, as of a spectrum: windows that overlap, and that do not
    _conv((2, 1, 201), (2, 1, 128), strides=[64], pads=[9, 5]),
    _conv((1, 1, 140), (2, 1, 64), strides=[64]),
    # strides with every remainder
    *(_conv((1, 2, n), (3, 2, 3), kernel_shape=[3], strides=[3]) for n in (6, 7, 8, 9)),
    _conv((1, 2, 6, 7), (3, 2, 3, 3), strides=[2, 3], pads=[1, 0, 1, 2]),
    _conv((1, 2, 6, 7), (3, 2, 3, 3), kernel_shape=[3, 3], strides=[2, 3], pads=[1, 0, 1, 2]),
    _conv((1, 2, 9), (3, 2, 2), strides=[4]),
    # dilations
    _conv((2, 2, 7, 6), (3, 2, 3, 2), kernel_shape=[3, 2], dilations=[2, 3]),
    _conv((1, 2, 9, 8), (2, 2, 3, 2), dilations=[2, 3], strides=[3, 2], pads=[1, 2, 0, 1]),
    # auto_pad
    *(
        _conv((1, 2, 6, 7), (3, 2, 3, 2), auto_pad=pad, strides=strides, **shape)
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for strides, shape in (([1, 1], {"kernel_shape": [3, 2]}), ([2, 3], {}))
    ),
    _conv((1, 2, 8), (2, 2, 3), auto_pad="SAME_UPPER", dilations=[2], strides=[3]),
    _conv((1, 2, 7), (2, 2, 1), auto_pad="SAME_LOWER", strides=[3]),
    # groups and depthwise, also with a multiplier
    _conv((2, 4, 5), (6, 2, 3), bias=True, group=2),
    _conv((2, 4, 5, 5), (6, 2, 3, 2), kernel_shape=[3, 2], group=2, strides=[2, 1]),
    _conv((2, 3, 5, 5), (3, 1, 3, 3), kernel_shape=[3, 3], group=3, pads=[1, 1, 1, 1], bias=True),
    _conv((2, 3, 5, 5), (6, 1, 3, 3), kernel_shape=[3, 3], group=3, strides=[2, 2]),
]


def _transpose(
    x: tuple[int, ...], w: tuple[int, ...], group: int = 1, bias: bool = False, **attributes: object
) -> Sample:
    b = [normal(w[1] * group)] if bias else []
    return Sample("ConvTranspose", [normal(*x), normal(*w), *b], {"group": group, **attributes})


SAMPLES += [
    # 1-D to 3-D, bias present and absent
    _transpose((2, 3, 5), (3, 2, 3), bias=True),
    _transpose((2, 3, 3, 4), (3, 2, 3, 2), kernel_shape=[3, 2], bias=True),
    _transpose((1, 2, 2, 3, 2), (2, 2, 2, 1, 2), strides=[2, 2, 1]),
    # strides, padding, dilations, output padding up to and beyond the stride
    _transpose((1, 2, 4, 3), (2, 3, 3, 2), strides=[2, 3], pads=[1, 0, 0, 1]),
    _transpose((1, 2, 4, 3), (2, 3, 3, 2), strides=[2, 3], output_padding=[1, 2]),
    _transpose((1, 2, 4), (2, 3, 3), strides=[2], pads=[2, 1], output_padding=[1]),
    _transpose((1, 2, 4), (2, 3, 3), strides=[2], dilations=[3], output_padding=[2]),
    _transpose((2, 2, 4, 3), (2, 1, 2, 2), dilations=[2, 3], pads=[1, 1, 1, 0]),
    # auto_pad and output_shape
    *(
        _transpose((1, 2, 4, 3), (2, 2, 3, 4), auto_pad=pad, strides=[2, 3])
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    *(
        _transpose((1, 2, 3, 3), (2, 1, 4, 3), auto_pad=pad, strides=[2, 2], output_shape=[7, 6])
        for pad in ("SAME_UPPER", "SAME_LOWER", "NOTSET")
    ),
    # ... with strides that leave gaps, with many taps
    _transpose((1, 2, 3), (2, 2, 2), auto_pad="SAME_UPPER", strides=[3]),
    _transpose((1, 1, 72), (1, 2, 66), auto_pad="SAME_LOWER", strides=[2], kernel_shape=[66]),
    # groups and depthwise
    _transpose((2, 4, 3), (4, 3, 3), group=2, strides=[2], bias=True),
    _transpose((2, 3, 3, 3), (3, 1, 3, 3), group=3, strides=[2, 2], pads=[1, 1, 1, 1]),
    _transpose((2, 3, 3, 3), (3, 2, 2, 3), group=3),
]


def _deform(
    x: tuple[int, ...],
    w: tuple[int, ...],
    outputs: tuple[int, ...],
    offset_group: int = 1,
    optional: bool = True,
    **attributes: object,
) -> Sample:
    n, elements = x[0], w[2] * w[3]
    offset = np.round(uniform(-1.5, 1.5, n, 2 * offset_group * elements, *outputs) * 10) / 10 + 0.03
    more = [normal(w[0]), normal(n, offset_group * elements, *outputs)] if optional else []
    return Sample(
        "DeformConv",
        [normal(*x), normal(*w), offset, *more],
        {"offset_group": offset_group, **attributes},
    )


SAMPLES += [
    _deform((1, 2, 4, 5), (3, 2, 2, 2), (3, 4), kernel_shape=[2, 2]),
    _deform((1, 2, 4, 4), (2, 2, 3, 2), (4, 3), pads=[1, 0, 1, 0], optional=False),
    _deform(
        (2, 4, 4, 5),
        (4, 2, 2, 3),
        (2, 2),
        offset_group=2,
        group=2,
        strides=[2, 1],
        dilations=[1, 2],
        pads=[0, 1, 0, 0],
    ),
    _deform((1, 4, 3, 3), (2, 4, 2, 2), (2, 2), 4, kernel_shape=[2, 2]),
    # image [6, 7] from blocks [2, 3]
    *(
        Sample("Col2Im", [normal(2, 12, rows * columns), ints(6, 7), ints(2, 3)], attributes)
        for rows, columns, attributes in (
            (5, 5, {}),
            (3, 4, {"strides": [2, 2], "pads": [0, 1, 0, 1]}),
            (4, 3, {"dilations": [2, 2]}),
        )
    ),
    Sample("Col2Im", [normal(1, 6, 4), ints(6), ints(3)]),
    Sample("Col2Im", [normal(1, 8, 8), ints(3, 3, 3), ints(2, 2, 2)]),
]
