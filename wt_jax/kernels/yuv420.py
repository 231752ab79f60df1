"""The kernel of `wt_jax.data.video.yuv420`: from planes of 4:2:0 to frames of a clip, in whole numbers on each machine.

Compiled by Numba, which keeps the code on disk. Where its loops do not become vectors, sixteen values at once are written in
LLVM's own terms (`_interpolate`, `_color`), which become whatever the processor has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import int64, types, uint16
from numba.np.numpy_support import carray

from wt_jax.kernels.compiled import compiled, intrinsic, pointer

_LANES = 16
_REACH = 2 * _LANES + 1  # bytes that `_interpolate` reads
_BYTES, _SHORTS, _WORDS = (ir.VectorType(ir.IntType(bits), _LANES) for bits in (8, 16, 32))


@compiled("UniTuple(i8,4)(i8,i8,i8,i8)")
def chroma_box(top, left, rows, columns):
    """The samples of chroma that a crop touches: top, left, rows, columns."""
    return top // 2, left // 2, (top + rows + 1) // 2 - top // 2, (left + columns + 1) // 2 - left // 2


def _all(value: int, kind: ir.VectorType = _SHORTS) -> ir.Constant:
    return ir.Constant(kind, [value] * _LANES)


def _at(builder: ir.IRBuilder, address: Any, kind: ir.Type, offset: int = 0) -> Any:
    return builder.inttoptr(builder.add(address, ir.Constant(ir.IntType(64), offset)), kind.as_pointer())


def _spread(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    """A number in each lane."""
    one = builder.insert_element(ir.Constant(_SHORTS, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(_SHORTS, ir.Undefined), _all(0, _WORDS))


@intrinsic
def _interpolate(typing_context, source, places, weights, out):
    """Sixteen values between two bytes each, in 256ths: the addresses of the bytes, of which 33 are read, of the places of the
    first bytes, uint8 below 32, of the weights of the second, uint16 up to 256, and of what is written, uint16.
    """

    def generate(context, builder, signature, arguments):
        source, places, weights, out = arguments
        places = builder.load(_at(builder, places, _BYTES), align=1)
        far = builder.icmp_unsigned(">=", places, _all(_LANES, _BYTES))
        places = builder.and_(places, _all(_LANES - 1, _BYTES))

        def chosen(offset: int) -> ir.Value:
            # LLVM knows this for a single instruction of many processors.
            values, found = builder.load(_at(builder, source, _BYTES, offset), align=1), ir.Constant(_BYTES, ir.Undefined)
            for lane in range(_LANES):
                number = ir.Constant(ir.IntType(32), lane)
                place = builder.zext(builder.extract_element(places, number), ir.IntType(32))
                found = builder.insert_element(found, builder.extract_element(values, place), number)
            return found

        first, second = (builder.select(far, chosen(_LANES + next_), chosen(next_)) for next_ in (0, 1))
        first, second = builder.zext(first, _SHORTS), builder.zext(second, _SHORTS)
        more = builder.mul(builder.sub(second, first), builder.load(_at(builder, weights, _SHORTS), align=2))
        builder.store(builder.add(builder.shl(first, _all(8)), more), _at(builder, out, _SHORTS), align=2)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def _color(typing_context, above, below, weights, factors, out):
    """Sixteen pixels: the addresses of luma, blue and red above and below, uint16 in 256ths of a level; the weights of luma
    and of chroma below, up to 256; the address of the factors; the addresses of red, green and blue, uint8, written to.
    """

    def generate(context, builder, signature, arguments):
        above, below, weights, factors, out = (
            each if each.type == ir.IntType(64) else [builder.extract_value(each, place) for place in range(each.type.count)]
            for each in arguments
        )

        def high_product(values: ir.Value, of: ir.Value, widen) -> ir.Value:
            """The upper half of the 32 bits of a product; LLVM knows this for a single instruction."""
            product = builder.mul(widen(values, _WORDS), widen(of, _WORDS))
            return builder.trunc(builder.lshr(product, _all(16, _WORDS)), _SHORTS)

        def between(plane: int, weight: ir.Value) -> ir.Value:
            first, second = (builder.load(_at(builder, each[plane], _SHORTS), align=2) for each in (above, below))
            first = high_product(first, builder.sub(_all(-1), weight), builder.zext)
            return builder.add(first, high_product(second, weight, builder.zext))

        def store(value: ir.Value, address: ir.Value) -> None:
            value = builder.ashr(value, _all(5))
            value = builder.select(builder.icmp_signed("<", value, _all(0)), _all(0), value)
            value = builder.select(builder.icmp_signed(">", value, _all(255)), _all(255), value)
            builder.store(builder.trunc(value, _BYTES), _at(builder, address, _BYTES), align=1)

        def part(weight: Any) -> ir.Value:
            """Of 65536ths; 1 becomes one less, so that it fits, which is less than a 256th of a level."""
            eight = ir.Constant(weight.type, 8)
            return builder.trunc(builder.sub(builder.shl(weight, eight), builder.lshr(weight, eight)), ir.IntType(16))

        luma, chroma = (_spread(builder, part(each)) for each in weights)
        gain, offset, red_in_red, blue_in_green, red_in_green, blue_in_blue = (
            _spread(builder, builder.load(_at(builder, factors, ir.IntType(16), 2 * place), align=2)) for place in range(6)
        )
        y = builder.sub(high_product(between(0, luma), gain, builder.zext), offset)
        # From its middle, 128 levels, so that it has a sign.
        b, r = (builder.xor(between(plane, chroma), _all(-(1 << 15))) for plane in (1, 2))
        store(builder.add(y, high_product(r, red_in_red, builder.sext)), out[0])
        less = builder.add(high_product(b, blue_in_green, builder.sext), high_product(r, red_in_green, builder.sext))
        store(builder.sub(y, less), out[1])
        store(builder.add(y, high_product(b, blue_in_blue, builder.sext)), out[2])
        return context.get_dummy_value()

    three, two = types.UniTuple(types.int64, 3), types.UniTuple(types.int64, 2)
    return types.void(three, three, two, types.int64, three), generate


@compiled()
def _fill(at, by, begin, covered, count, mirrored):
    """Fills in a direction, for targets that cover so many of `count` samples, beginning so far in the first."""
    size = len(at)
    for place in range(size):
        middle = min(max(begin + (place + 0.5) * (covered / size) - 0.5, 0.0), count - 1.0)
        first = min(int(middle), max(count - 2, 0))
        target = size - 1 - place if mirrored else place
        at[target], by[target] = first, int((middle - first) * 256 + 0.5)


@compiled()
def _share_out(at, by, box, line, starts, orders, weights):
    """Fills in, for each sixteen targets, the first byte of a line to read, the places of their samples from there, and the
    weights; returns whether all of them are near enough for that."""
    size, near, left = len(at), line >= _REACH, box[1]
    last_start = max(left + box[3], _REACH) - _REACH  # so that nothing beyond the box is read, or at least beyond the line
    for block in range(len(starts)):
        some = at[_LANES * block : _LANES * (block + 1)]
        starts[block] = start = min(left + some.min(), last_start)
        near &= left + some.max() - start < 2 * _LANES
        for lane in range(_LANES):
            target = min(_LANES * block + lane, size - 1)
            orders[block, lane], weights[block, lane] = left + at[target] - start, by[target]
    return near


@compiled()
def _across(plane, line, box, near, at, by, starts, orders, weights, out):
    """Interpolates a box of a plane along its rows; out is uint16 [rows, size or more], in 256ths of a level."""
    top, left, rows, columns = box
    order, weight, to, step = orders.ctypes.data, weights.ctypes.data, out.ctypes.data, 2 * out.shape[1]
    for row in range(rows):
        first = plane + (top + row) * line
        if near:
            for block in range(len(starts)):
                x = _LANES * block
                _interpolate(first + starts[block], order + x, weight + 2 * x, to + row * step + 2 * x)
        else:
            samples = carray(pointer(first + left), columns, np.uint8)
            for j in range(len(at)):
                a, b = int64(samples[at[j]]), int64(samples[min(at[j] + 1, columns - 1)])
                out[row, j] = uint16(256 * a + (b - a) * by[j])


@compiled("void(i8[:,::1],i8[::1],UniTuple(i8,4),b1,i8,i2[:,::1],u1[:,:,:,::1])")
def cut(sources, places, crop, mirrored, halvings, factors, clip):
    """Crops, resizes, mirrors and turns to RGB.

    Args:
      sources: [n, 6], of each picture the addresses of its planes, the bytes of a line of luma and of chroma, and its row of
        the factors.
      places: [n], where in the clip each goes.
      crop: top, left, rows and columns in pixels.
      mirrored: whether left becomes right.
      halvings: where not 0, the planes hold the crop alone, without gaps, luma halved so many times and chroma once less.
      factors: see `wt_jax.data.video.yuv420`.
      clip: [T, size, size, 3], written to.
    """
    size = clip.shape[1]
    top, left, rows, columns = crop
    luma, chroma = (top, left, rows, columns), chroma_box(top, left, rows, columns)
    fewer = max(halvings - 1, 0)
    if halvings:
        luma, chroma = (0, 0, rows >> halvings, columns >> halvings), (0, 0, chroma[2] >> fewer, chroma[3] >> fewer)
    tall, low, sample = luma[2], chroma[2], 2 << fewer  # pixels in a sample of chroma
    # Of rows and columns of the target: the first of the two samples to interpolate, and the weight of the second in 256ths.
    at, by = np.empty((2, 2, size), np.int64), np.empty((2, 2, size), np.int64)
    _fill(at[0, 0], by[0, 0], 0, tall, tall, False)
    _fill(at[0, 1], by[0, 1], 0, luma[3], luma[3], mirrored)
    # A cut that begins in an odd row begins in the middle of a sample of chroma.
    _fill(at[1, 0], by[1, 0], top % 2 / sample, (tall << halvings) / sample, low, False)
    _fill(at[1, 1], by[1, 1], left % 2 / sample, (luma[3] << halvings) / sample, chroma[3], mirrored)

    blocks = -(-size // _LANES)
    starts, orders = np.empty((2, blocks), np.int64), np.empty((2, blocks, _LANES), np.uint8)
    weights = np.empty((2, blocks, _LANES), np.uint16)
    wide = np.empty((tall + 2 * low, blocks * _LANES), np.uint16)
    luma_lines, blue_lines, red_lines = wide[:tall], wide[tall : tall + low], wide[tall + low :]
    y, b, r, step = luma_lines.ctypes.data, blue_lines.ctypes.data, red_lines.ctypes.data, 2 * wide.shape[1]
    colors = np.empty((3, blocks * _LANES), np.uint8)
    reds, greens, blues = colors[0], colors[1], colors[2]
    targets = clip.reshape(len(clip) * size, 3 * size)
    near, luma_line, chroma_line = (False, False), -1, -1
    for number in range(len(sources)):
        source = sources[number]
        if source[3] != luma_line or source[4] != chroma_line:
            luma_line, chroma_line = source[3], source[4]
            near = (
                _share_out(at[0, 1], by[0, 1], luma, luma_line, starts[0], orders[0], weights[0]),
                _share_out(at[1, 1], by[1, 1], chroma, chroma_line, starts[1], orders[1], weights[1]),
            )
        _across(source[0], luma_line, luma, near[0], at[0, 1], by[0, 1], starts[0], orders[0], weights[0], luma_lines)
        _across(source[1], chroma_line, chroma, near[1], at[1, 1], by[1, 1], starts[1], orders[1], weights[1], blue_lines)
        _across(source[2], chroma_line, chroma, near[1], at[1, 1], by[1, 1], starts[1], orders[1], weights[1], red_lines)
        table = factors[source[5]].ctypes.data
        for row in range(size):
            y0, y1 = y + at[0, 0, row] * step, y + min(at[0, 0, row] + 1, tall - 1) * step
            c0, c1 = at[1, 0, row] * step, min(at[1, 0, row] + 1, low - 1) * step
            for block in range(blocks):
                x = 2 * _LANES * block
                above, below = (y0 + x, b + c0 + x, r + c0 + x), (y1 + x, b + c1 + x, r + c1 + x)
                out = colors.ctypes.data + _LANES * block
                _color(above, below, (by[0, 0, row], by[1, 0, row]), table, (out, out + step // 2, out + step))
            to = targets[places[number] * size + row]
            for j in range(size):
                to[3 * j], to[3 * j + 1], to[3 * j + 2] = reds[j], greens[j], blues[j]
