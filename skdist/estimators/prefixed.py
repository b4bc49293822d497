"""Parameters with a prefix, which go to what the estimator makes: ``module__hidden=64``."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from skdist.estimators.settings import SettingsMixin


class PrefixedMixin(SettingsMixin):
    """Takes any parameter whose name begins with a prefix, as skorch does."""

    _prefixes: ClassVar[tuple[str, ...]] = ()

    def _take(self, params: dict[str, Any]) -> None:
        """Keep parameters with a prefix.

        Raises
        ------
        TypeError
            For any others.
        """
        for name, value in params.items():
            if not self._is_prefixed(name):
                raise TypeError(
                    f"{type(self).__name__} has no parameter {name!r}. Parameters of "
                    f"{', '.join(prefix.rstrip('_') for prefix in self._prefixes)} begin with "
                    f"{', '.join(self._prefixes)}."
                )
            setattr(self, name, value)

    def _is_prefixed(self, name: str) -> bool:
        return any(name.startswith(prefix) and name != prefix for prefix in self._prefixes)

    def _params_for(self, prefix: str) -> dict[str, Any]:
        """Return the parameters with a prefix, without it."""
        return {n.removeprefix(prefix): value for n, value in vars(self).items() if n.startswith(prefix)}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name, those with a prefix included.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include those of nested settings.

        Returns
        -------
        dict
        """
        params: dict[str, Any] = super().get_params(deep=deep)
        return params | {name: value for name, value in vars(self).items() if self._is_prefixed(name)}

    def set_params(self, **params: Any) -> Self:
        """Set parameters, also nested ones and those with a prefix.

        Parameters
        ----------
        **params : dict
            Parameters by name.

        Returns
        -------
        self
        """
        self._take({name: value for name, value in params.items() if self._is_prefixed(name)})
        super().set_params(**{n: value for n, value in params.items() if not self._is_prefixed(n)})
        return self
