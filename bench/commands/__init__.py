"""The commands of ``sdn-triton``, each with a ``configure`` that adds its options."""
