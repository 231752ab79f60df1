"""Every protocol, by name, with its settings: adding one is a file beside this one and a line here."""

import dataclasses
from dataclasses import dataclass
from typing import cast

from wt_jax.eval.protocols.attentive import Attentive
from wt_jax.eval.protocols.base import Protocol
from wt_jax.eval.protocols.clips import ClipTraining
from wt_jax.eval.protocols.detection import Detection
from wt_jax.eval.protocols.detection_recipes import SLOW_DETECTION
from wt_jax.eval.protocols.finetune import MACLR_FINETUNE
from wt_jax.eval.protocols.knn import Knn
from wt_jax.eval.protocols.linear import Linear
from wt_jax.eval.protocols.linear_clips import MACLR_LINEAR
from wt_jax.eval.protocols.low_shot import LowShot
from wt_jax.eval.protocols.nonlinear import NonLinear
from wt_jax.eval.protocols.retrieval import Retrieval
from wt_jax.eval.protocols.speech_retrieval import SpeechRetrieval
from wt_jax.eval.protocols.zero_shot import ZeroShot


@dataclass(frozen=True)
class FeatureProtocols:
    """The protocols that read one feature per video: a run can use them too."""

    knn: Knn = Knn()
    linear: Linear = Linear()
    nonlinear: NonLinear = NonLinear()
    low_shot: LowShot = LowShot()
    retrieval: Retrieval = Retrieval()
    zero_shot: ZeroShot = ZeroShot()


@dataclass(frozen=True)
class Protocols(FeatureProtocols):
    """All protocols: those that read feature maps, sound or boxes or train on clips belong to the evaluation command alone."""

    attentive: Attentive = Attentive()
    speech_retrieval: SpeechRetrieval = SpeechRetrieval()
    linear_clips: ClipTraining = MACLR_LINEAR
    finetune: ClipTraining = MACLR_FINETUNE
    detection: Detection = SLOW_DETECTION


FEATURE_PROTOCOLS: dict[str, Protocol] = {f.name: cast(Protocol, f.default) for f in dataclasses.fields(FeatureProtocols)}
PROTOCOLS: dict[str, Protocol] = {f.name: cast(Protocol, f.default) for f in dataclasses.fields(Protocols)}
