"""How the weights of the learned features are made: seeded textures, ray-cast scenes, pairs and the fit."""
