"""The colours of all figures, which the report's page has a dark counterpart for.

The strategies' are those of Okabe and Ito (2008), told apart in every common form of colour
blindness.
"""

INK = "#222222"
GREY = "#767676"
FAINT = "#B5B5B5"
PALE = "#E4E4E4"
WHITE = "#FFFFFF"
BLACK = "#000000"
ORANGE = "#E69F00"
STRAW = "#F5D58A"
SKY = "#56B4E9"
GREEN = "#009E73"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
