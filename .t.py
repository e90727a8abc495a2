import torch
from selfsight import encoders, losses
import selfsight; print(selfsight.__file__)
for name, s in (("amdim-toy",32),("amdim-toy",64),("amdim-toy",96),("amdim-toy",128)):
    n = encoders.build(name,3,s); r,a,b=n.scales(torch.randn(2,3,s,s)); print(r.shape,a.shape,b.shape)
t=torch.tensor([1.,0.],dtype=torch.float64).view(2,1,1); s=torch.ones(2,1,dtype=torch.float64)
print(losses.amdim(s,t,20.,0.), losses.amdim(s,t,20.,.05)-losses.amdim(s,t,20.,0.))
from selfsight.recipes import recipe
for r in ("tiny","shapes","cifar10-cpu","cifar10-200","cifar10-1000","imagenet","any"): x=recipe("amdim",r); print(r, x.encoder, x.image_size, x.batch_size, x.views)
