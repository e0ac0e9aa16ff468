from . import ray, triton

__all__ = ["ray", "triton"]
