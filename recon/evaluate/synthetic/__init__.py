"""Small photographed scenes of our own design with known truth: shape, paint, light, a ray tracer and a phone."""
