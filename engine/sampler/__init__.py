"""Logits in, tokens and their log-probabilities out. Stateless noise; rows never mix."""

from engine.sampler.logprobs import prompt_logprobs
from engine.sampler.state import Sampled, SamplingState

__all__ = ["Sampled", "SamplingState", "prompt_logprobs"]
