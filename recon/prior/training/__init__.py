"""How the weights of the learned multi-view stereo are made, from nothing but seeded pictures of our own."""
