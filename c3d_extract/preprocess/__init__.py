"""Frames to network input: which frames form a clip, resize, crop, mean."""
