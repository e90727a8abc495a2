"""A method, an encoder, a data set, and a policy with a step of its own, in one file each."""
