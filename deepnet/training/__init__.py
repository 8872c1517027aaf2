"""How a model is trained: what is asked of it beforehand, and how the training is carried out."""
