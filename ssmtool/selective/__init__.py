"""Mathematics of input-dependent layers: what a mixer computes, its calibrated Gramians, how it is reduced."""
