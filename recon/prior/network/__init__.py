"""The learned multi-view stereo network: a small cascade MVSNet."""
