"""Phone photos of one object in, a finished textured 3D asset out."""

__version__ = "0.1.0"
