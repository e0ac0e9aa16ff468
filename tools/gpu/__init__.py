"""The benchmark on a GPU: `tools/bench.py --cuda`.

`plan` says what is measured and in which order, `measure` does it within a time, `worker` is the
process of a contender, `report` writes the results, and `wheels` unpacks a runtime that was carried
to a machine without a network.
"""
