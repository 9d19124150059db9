"""Several assets in one scene."""
