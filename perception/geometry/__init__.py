"""Rigid transforms, the bird's-eye-view grid, camera models and box maths; torch only, no other room."""
