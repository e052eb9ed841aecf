"""Runs to look at: `tracelift report`, one self-contained page with curves and an inspector of traces."""
