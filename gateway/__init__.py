"""A proxy for Huawei Cloud AOS that keeps settled execution records."""

__version__ = "0.1.0"
