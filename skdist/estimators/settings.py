"""Parameters that are objects, clients or 'auto': what scikit-learn's tools need to handle them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

from sklearn.base import BaseEstimator, clone


class SettingsMixin(BaseEstimator):
    """Nested parameters of ``'auto'``, and clones, copies and pickles of estimators that hold a client."""

    client: Any

    #: By parameter, what makes the settings object that ``'auto'`` stands for.
    _auto_settings: ClassVar[dict[str, Callable[[], Any]]] = {}

    def set_params(self, **params: Any) -> SettingsMixin:
        """Set parameters, also those of nested settings.

        Where a nested parameter of a setting that is ``'auto'`` is given, as in ``batch_sizer__window=8``,
        ``'auto'`` is first replaced by the default object.

        Parameters
        ----------
        **params : dict
            Parameters by name.

        Returns
        -------
        self
        """
        for key in params:
            name, nested, _ = key.partition("__")
            plain = params.get(name, getattr(self, name, None))
            if nested and isinstance(plain, str) and plain == "auto" and name in self._auto_settings:
                setattr(self, name, self._auto_settings[name]())
                params = {k: v for k, v in params.items() if k != name}
        super().set_params(**params)
        return self

    def _setting(self, name: str) -> Any:
        """Return the settings object of a parameter, None where the mechanism is off."""
        value = getattr(self, name)
        if isinstance(value, str) and value == "auto":
            return self._auto_settings[name]()
        if hasattr(value, "_validate_params"):
            value._validate_params()
        return value

    def __sklearn_clone__(self) -> SettingsMixin:
        """Clone everything but the client, which cannot be copied and is shared."""
        params = {
            name: value if name == "client" else clone(value, safe=False)
            for name, value in self.get_params(deep=False).items()
        }
        twin = type(self)(**params)
        for attribute in ("_metadata_request", "_sklearn_output_config"):
            if hasattr(self, attribute):
                setattr(twin, attribute, clone(getattr(self, attribute), safe=False))
        if hasattr(self, "_skl_callbacks"):
            twin._skl_callbacks = self._skl_callbacks  # shared, as scikit-learn's own clone does
        return twin

    def __copy__(self) -> SettingsMixin:
        """Copy in this process: the client is shared."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> SettingsMixin:
        """Copy everything but the client, which cannot be copied and is shared."""
        memo[id(self.client)] = self.client
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: all but the client, which belongs to its process."""
        state = dict(super().__getstate__())
        state["client"] = None
        return state
