"""A lens ground by gradient descent

Snell's law is a formula of the glass's curve. The gradient of the spot's size with respect to the curve grinds a flat
window into a lens, and it comes out aspherical, as it has to for rays so far from the axis.
"""
