"""The translated training patches of images, and the strata that share the noise of a patch."""
