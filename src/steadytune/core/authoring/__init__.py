"""The one import of a method's author: roles, hyper-parameters, cost, the step and its passes.

>>> from steadytune.core.authoring import Cost, LossMethod, PerItem, Step, hyperparameter
"""

from __future__ import annotations

from steadytune.core.authoring.cost import CLEAN_PASS as CLEAN_PASS
from steadytune.core.authoring.cost import PLAIN_STEP as PLAIN_STEP
from steadytune.core.authoring.cost import Cost as Cost
from steadytune.core.authoring.cost import searched_term as searched_term
from steadytune.core.authoring.hyperparameters import hyperparameter as hyperparameter
from steadytune.core.authoring.method import ADVERSARY as ADVERSARY
from steadytune.core.authoring.method import BACKWARD as BACKWARD
from steadytune.core.authoring.method import INITIAL_WEIGHTS as INITIAL_WEIGHTS
from steadytune.core.authoring.method import OPTIMIZER as OPTIMIZER
from steadytune.core.authoring.method import SCHEDULE as SCHEDULE
from steadytune.core.authoring.method import TASK_EMBEDDINGS as TASK_EMBEDDINGS
from steadytune.core.authoring.method import TASK_LOSS as TASK_LOSS
from steadytune.core.authoring.method import TRAINABLE as TRAINABLE
from steadytune.core.authoring.method import LossMethod as LossMethod
from steadytune.core.authoring.method import Method as Method
from steadytune.core.authoring.method import ModelMethod as ModelMethod
from steadytune.core.authoring.method import OptimizerMethod as OptimizerMethod
from steadytune.core.authoring.method import StepMethod as StepMethod
from steadytune.core.authoring.method import WeightMethod as WeightMethod
from steadytune.core.authoring.method import on_a_clean_pass as on_a_clean_pass
from steadytune.core.authoring.method import refuse_unknown_settings as refuse_unknown_settings
from steadytune.core.authoring.passes import LossPart as LossPart
from steadytune.core.authoring.passes import Passes as Passes
from steadytune.core.authoring.per_item import PerItem as PerItem
from steadytune.core.authoring.step import Masks as Masks
from steadytune.core.authoring.step import Step as Step
from steadytune.core.authoring.thinning import thinned as thinned
from steadytune.core.authoring.training import Attachment as Attachment
from steadytune.core.authoring.training import Batches as Batches
from steadytune.core.authoring.training import Training as Training
from steadytune.core.state.teacher import Teacher as Teacher
