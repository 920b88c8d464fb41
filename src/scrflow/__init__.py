"""scrflow: visual localization by scene coordinate regression as a reproducible workflow."""

__version__ = "0.1.0"

__all__ = ["Localization", "Localizer"]


def __getattr__(name: str) -> object:
    # torch takes seconds to import: whoever asks for the version is not to wait for it
    if name in __all__:
        from scrflow.localize import localizer

        return getattr(localizer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
