"Everything: all public names of all modules, and the methods that later pages patch onto earlier classes"
from miniai.xtras import *
from miniai.datasets import *
from miniai.conv import *
from miniai.learner import *
from miniai.activations import *
from miniai.init import *
from miniai.sgd import *
from miniai.resnet import *
from miniai.summary import *
from miniai.augment import *
from miniai.accel import *
from miniai.checkpoint import *
from miniai.recipes import *
from miniai.train import *
