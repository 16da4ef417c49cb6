"""How strange a photo is beside good photos: families of scores, fitted on good photos and on made damage.

`cross_fitted.py` is where to begin: it fits everything and judges.
"""
