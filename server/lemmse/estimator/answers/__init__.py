"""What an index answers: reconstructions, explanations, derivatives and estimates of noise.

The modules, in the order in which an answer is made:

- `noise`: the noise of a measurement, estimated where it was not stated
- `request`: what the options of a request mean for an index
- `le_mmse`: the posterior means of patches
- `mmse`: those of whole images, and of their translations
- `result`: the image, its maps and its diagnostics, made from posteriors as they are summed
- `answer`: the answer to one measurement; `together`: to several small ones, by one sum
- `explanation`: the training patches that make a pixel; `derivative`: a vector–Jacobian product
- `fit`: how well an index suits a measurement
"""
