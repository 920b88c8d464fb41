# ruff: noqa: F403 - all models, for others
"""Typed configuration: one frozen model per config file and per stage.

``config/config.yaml`` holds what is common to all scenes; ``config/scenes``, ``encoders``, ``methods``, ``baselines``
and ``tables`` a file per NAME. ``extends: OTHER`` in one of these takes OTHER's values where the file says nothing.
Each stage of the workflow reads exactly one ``*Stage`` model: a change of its values reruns the stage.
"""

from scrflow.config.base import *
from scrflow.config.features import *
from scrflow.config.method import *
from scrflow.config.scene import *
from scrflow.config.stages import *
from scrflow.config.table import *
