"""Learned keypoints and descriptors behind the same noun as SIFT."""
