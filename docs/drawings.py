"""Draws the pictures of docs/conventions.md as SVG files; box and grid are computed by the code that they explain.

Usage: python docs/drawings.py [FOLDER], from the repository's root; without a folder, docs/images.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from perception.geometry.boxes import box_corners
from perception.geometry.grid import Grid

Point = tuple[float, float]
Axis = tuple[str, str, float]
INK, FAINT, FILL, MARK = "#222222", "#9aa0a6", "#eef1f4", "#fde9c8"
X_AXIS, Y_AXIS, Z_AXIS = "#d62828", "#2a9d3a", "#1d5fd1"


class Drawing:
    """An SVG picture in page pixels (right, down); `scale` and `origin` place metres (right, up) on the page.

    Args:
        width: page width, pixels.
        height: page height, pixels.
        origin: where metric (0, 0) lies on the page, pixels.
        scale: pixels per metre.
    """

    def __init__(self, width: int, height: int, origin: Point = (0, 0), scale: float = 1.0) -> None:
        self.origin, self.scale = origin, scale
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            'font-family="Helvetica, Arial, sans-serif" font-size="14">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]

    def place(self, point: Point) -> Point:
        """Maps metres (right, up) to page pixels."""
        return self.origin[0] + point[0] * self.scale, self.origin[1] - point[1] * self.scale

    def line(self, start: Point, end: Point, color: str = INK, width: float = 1.5, dash: str = "none") -> None:
        """Draws a straight line between metric points."""
        (x1, y1), (x2, y2) = self.place(start), self.place(end)
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
            f'stroke-width="{width}" stroke-dasharray="{dash}"/>'
        )

    def arrow(self, start: Point, end: Point, color: str = INK, width: float = 2.5, dash: str = "none") -> None:
        """Draws a line with a head at its end."""
        (x1, y1), (x2, y2) = self.place(start), self.place(end)
        length = math.hypot(x2 - x1, y2 - y1)
        ux, uy = (x2 - x1) / length, (y2 - y1) / length
        neck = (x2 - 9 * ux, y2 - 9 * uy)
        sides = [(neck[0] - s * 4.5 * uy, neck[1] + s * 4.5 * ux) for s in (1, -1)]
        head = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x2, y2), *sides])
        scaled = ((neck[0] - self.origin[0]) / self.scale, (self.origin[1] - neck[1]) / self.scale)
        self.line(start, scaled, color, width, dash)
        self.parts.append(f'<polygon points="{head}" fill="{color}"/>')

    def polygon(self, points: list[Point], fill: str = "none", stroke: str = INK, width: float = 1.5) -> None:
        """Draws a closed outline through metric points."""
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.place, points))
        self.parts.append(f'<polygon points="{corners}" fill="{fill}" stroke="{stroke}" stroke-width="{width}"/>')

    def rectangle(self, low: Point, high: Point, fill: str = "none", stroke: str = INK, width: float = 1.5) -> None:
        """Draws an upright rectangle between two metric corners."""
        self.polygon([low, (high[0], low[1]), high, (low[0], high[1])], fill, stroke, width)

    def circle(self, center: Point, radius_px: float, fill: str = INK, stroke: str = "none") -> None:
        """Draws a circle around a metric point."""
        x, y = self.place(center)
        style = f'fill="{fill}" stroke="{stroke}" stroke-width="2"'
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius_px}" {style}/>')

    def arc(self, center: Point, radius: float, end_rad: float, color: str = INK) -> None:
        """Draws the counter-clockwise arc from +right to an angle below pi, with a head."""
        angles = [end_rad * step / 24 for step in range(25)]
        points = [(center[0] + radius * math.cos(a), center[1] + radius * math.sin(a)) for a in angles]
        page = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.place, points[:-1]))
        self.parts.append(f'<polyline points="{page}" fill="none" stroke="{color}" stroke-width="2"/>')
        self.arrow(points[-3], points[-1], color, 2)

    def text(self, point: Point, words: str, color: str = INK, anchor: str = "middle", size: int = 14) -> None:
        """Writes words beside a metric point."""
        x, y = self.place(point)
        style = f'fill="{color}" text-anchor="{anchor}" font-size="{size}" stroke="white" stroke-width="4"'
        self.parts.append(f'<text x="{x:.1f}" y="{y + 5:.1f}" {style} paint-order="stroke">{words}</text>')

    def towards_viewer(self, center: Point, color: str, away: bool = False) -> None:
        """Draws an axis that points out of the page (a dot) or into it (a cross)."""
        self.circle(center, 7, "white", color)
        if away:
            reach = 5 / self.scale
            for slope in (1, -1):
                start = (center[0] - reach, center[1] - slope * reach)
                self.line(start, (center[0] + reach, center[1] + slope * reach), color, 2)
        else:
            self.circle(center, 3, color)

    def svg(self) -> str:
        """Gives the file's text."""
        return "\n".join([*self.parts, "</svg>", ""])


def turned(center: Point, length: float, angle_rad: float) -> Point:
    """Gives the point at a distance and angle (counter-clockwise from right) from another."""
    return center[0] + length * math.cos(angle_rad), center[1] + length * math.sin(angle_rad)


def axes(page: Drawing, center: Point, first: Axis, second: Axis, reach: float) -> None:
    """Draws two named axes, each (name, colour, angle on the page)."""
    for name, color, angle in (first, second):
        page.arrow(center, turned(center, reach, angle), color)
        page.text(turned(center, reach + 14 / page.scale, angle), name, color)


def frames_from_above() -> str:
    """Draws global, ego, LiDAR and camera frames on a car, forward to the top of the page."""
    page = Drawing(860, 560, origin=(440, 430), scale=100)
    page.rectangle((-0.9, -0.95), (0.9, 3.25), FILL, FAINT)
    page.line((-0.75, 2.15), (0.75, 2.15), FAINT)
    for y in (0.0, 2.6):
        for x in (-0.85, 0.85):
            page.rectangle((x - 0.1, y - 0.3), (x + 0.1, y + 0.3), FAINT, FAINT)
    page.line((-0.85, 0), (0.85, 0), FAINT)
    page.text((0, 3.42), "front", FAINT)

    up, left, right = math.pi / 2, math.pi, 0.0
    axes(page, (0, 0), ("x", X_AXIS, up), ("y", Y_AXIS, left), 0.5)
    page.towards_viewer((0, 0), Z_AXIS)
    page.text((1.1, 0), "ego: x forward, y left, z up", anchor="start")

    lidar = (0.0, 0.95)
    axes(page, lidar, ("x", X_AXIS, right), ("y", Y_AXIS, up), 0.4)
    page.towards_viewer(lidar, Z_AXIS)
    page.text((1.1, 0.95), "lidar: as its maker defines it", anchor="start")
    page.text((1.1, 0.72), "(nuScenes: x right, y forward, z up)", anchor="start")

    front, side = (0.0, 1.75), (-0.5, 1.55)
    turn = math.radians(55)
    axes(page, front, ("z", Z_AXIS, up), ("x", X_AXIS, right), 0.5)
    page.towards_viewer(front, Y_AXIS, away=True)
    axes(page, side, ("z", Z_AXIS, up + turn), ("x", X_AXIS, turn), 0.45)
    page.towards_viewer(side, Y_AXIS, away=True)
    page.text((1.1, 1.75), "camera: x right, y down, z forward", anchor="start")

    world = (-3.9, -0.75)
    axes(page, world, ("x", X_AXIS, math.radians(20)), ("y", Y_AXIS, math.radians(110)), 0.9)
    page.towards_viewer(world, Z_AXIS)
    page.text((world[0] - 0.2, world[1] - 0.35), "global: fixed to the map, z up", anchor="start")
    page.arrow((-0.15, -0.1), (world[0] + 0.25, world[1] + 0.05), FAINT, 1.5, "6 4")
    page.text((-2.1, -0.3), "ego2global", FAINT)
    page.text((-4.2, 3.9), "From above", anchor="start", size=18)
    page.text((-4.2, 3.62), "&#8857; towards you   &#8855; away from you", FAINT, "start")
    return page.svg()


def frames_from_the_side() -> str:
    """Draws the same frames from the car's right side, forward to the right of the page."""
    page = Drawing(760, 330, origin=(230, 262), scale=92)
    body = [(-0.9, 0.35), (-0.9, 1.0), (-0.6, 1.45), (1.3, 1.5), (2.1, 1.0), (3.2, 0.85), (3.25, 0.35)]
    page.polygon(body, FILL, FAINT)
    for x in (0.0, 2.6):
        page.circle((x, 0.32), 30, "white", FAINT)
    page.line((-1.9, 0), (5.3, 0), INK)
    page.text((3.4, -0.2), "ground", anchor="start")
    page.line((0, 0), (0, 0.32), FAINT, 1.5, "4 3")

    up, right, down = math.pi / 2, 0.0, -math.pi / 2
    axes(page, (0, 0), ("x", X_AXIS, right), ("z", Z_AXIS, up), 0.8)
    page.towards_viewer((0, 0), Y_AXIS, away=True)
    page.text((0, -0.3), "ego: under the middle of the rear axle")

    page.line((0.94, 1.48), (0.94, 1.75), FAINT, 5)
    axes(page, (0.94, 1.84), ("y", Y_AXIS, right), ("z", Z_AXIS, up), 0.5)
    page.towards_viewer((0.94, 1.84), X_AXIS)
    page.text((0.75, 1.95), "lidar", anchor="end")

    axes(page, (1.6, 1.42), ("z", Z_AXIS, right), ("y", Y_AXIS, down), 0.5)
    page.towards_viewer((1.6, 1.42), X_AXIS)
    page.text((2.4, 1.42), "camera: the picture's rows run down (y)", anchor="start")
    page.text((-2.4, 2.5), "From the right", anchor="start", size=18)
    return page.svg()


def grid_cells() -> str:
    """Draws a small grid around the car: which cell is [0, 0], rows, columns and centres."""
    grid = Grid((-4.0, 4.0), (-3.0, 3.0), (-5.0, 3.0), (1.0, 1.0, 8.0))
    page = Drawing(820, 480, origin=(385, 235), scale=58)
    x_low, y_low, _ = grid.origin_m
    page.rectangle((x_low, y_low), (x_low + 1, y_low + 1), MARK, "none")
    point = torch.tensor([[2.3, 1.4, 0.0]])
    cell = grid.cells(point)[0][0].tolist()
    x_center, y_center = grid.centers_xy()[cell[1], cell[2]].tolist()
    page.rectangle((x_center - 0.5, y_center - 0.5), (x_center + 0.5, y_center + 0.5), "#dcebff", "none")
    for column in range(grid.num_x + 1):
        page.line((x_low + column, y_low), (x_low + column, grid.y_range_m[1]), FAINT, 1)
    for row in range(grid.num_y + 1):
        page.line((x_low, y_low + row), (grid.x_range_m[1], y_low + row), FAINT, 1)
    for column, (x, _) in enumerate(grid.centers_xy()[0].tolist()):
        page.text((x, y_low - 0.22), str(column), FAINT)
    for row, (_, y) in enumerate(grid.centers_xy()[:, 0].tolist()):
        page.text((x_low - 0.22, y), str(row), FAINT)
    page.text((0, y_low - 0.55), "column = x cell")
    page.text((x_low - 0.45, 0), "row = y cell", anchor="end")
    page.text((x_low + 0.5, y_low + 0.5), "[0, 0]")
    page.circle((x_low, y_low), 5, INK)
    page.text((x_low, y_low - 0.9), "dot: lower corner (x_range_m[0], y_range_m[0])", anchor="start")

    page.rectangle((-0.7, -0.5), (1.9, 0.5), "none", INK)
    axes(page, (0, 0), ("x", X_AXIS, 0.0), ("y", Y_AXIS, math.pi / 2), 1.2)
    page.towards_viewer((0, 0), Z_AXIS)
    page.circle((2.3, 1.4), 4, X_AXIS)
    page.text((4.15, 1.85), "point (2.3, 1.4) lies in", anchor="start")
    page.text((4.15, 1.55), f"row {cell[1]}, column {cell[2]}", anchor="start")
    page.line((4.1, 1.6), (2.4, 1.42), FAINT, 1)
    page.circle((x_center, y_center), 3, "none", Z_AXIS)
    page.text((4.15, 0.9), "cell centre:", anchor="start")
    page.text((4.15, 0.6), f"({x_center}, {y_center})", anchor="start")
    page.line((4.1, 0.75), (x_center + 0.1, y_center - 0.05), FAINT, 1)
    page.text((x_low, 3.55), "bev[b, c, row, column], shape (B, C, Y, X)", anchor="start", size=18)
    return page.svg()


def box_from_above(page: Drawing) -> None:
    """Draws one box in the plane: centre, size, yaw, velocity and the corners of its bottom face."""
    yaw = math.radians(35)
    box = torch.tensor([[0.0, 0.0, 0.0, 4.4, 2.0, 1.6, yaw]], dtype=torch.float64)
    corners = [(x, y) for x, y, _ in box_corners(box)[0, :4].tolist()]
    page.polygon(corners, FILL)
    center = (0.0, 0.0)
    page.line(center, (3.3, 0), FAINT, 1.5, "6 4")
    page.text((3.5, 0), "+x", X_AXIS)
    page.arc(center, 1.4, yaw)
    page.text((1.75, 0.42), "yaw")
    page.arrow(center, turned(center, 3.0, yaw), INK, 2)
    page.text(turned(center, 3.45, yaw), "forward")
    page.circle(center, 4)
    page.text((-0.15, -0.35), "(x, y, z)", anchor="end")
    for index, corner in enumerate(corners):
        page.circle(corner, 4, Z_AXIS)
        outside = turned(corner, 0.42, math.atan2(corner[1], corner[0]))
        page.text(outside, f"{index} ({index + 4})", Z_AXIS)
    for name, (first, second) in {"l": (2, 3), "w": (1, 2)}.items():
        middle = ((corners[first][0] + corners[second][0]) / 2, (corners[first][1] + corners[second][1]) / 2)
        page.text(turned(middle, 0.28, math.atan2(middle[1], middle[0])), name, size=18)
    page.text((-3.3, 3.1), "From above", anchor="start", size=18)


def box_in_space(page: Drawing) -> None:
    """Draws the same box from behind and above, with all corners numbered."""
    box = torch.tensor([[0.0, 0.0, 0.0, 4.4, 2.0, 1.6, 0.0]], dtype=torch.float64)
    corners = [(6.6 + 0.62 * x - 0.55 * y, 0.36 * x + 0.3 * y + z) for x, y, z in box_corners(box)[0].tolist()]
    for start, end in [(1, 2), (2, 3), (4, 5), (5, 6), (6, 7), (7, 4), (1, 5), (2, 6), (3, 7)]:
        page.line(corners[start], corners[end])
    for end in (1, 3, 4):
        page.line(corners[0], corners[end], FAINT, 1.5, "4 3")
    page.circle((6.6, 0), 4)
    page.arrow((6.6, 0), (6.6 + 0.62 * 3.4, 0.36 * 3.4), INK, 2)
    page.text((6.6 + 0.62 * 3.4 + 0.1, 0.36 * 3.4), "forward", anchor="start")
    for index, corner in enumerate(corners):
        page.circle(corner, 4, Z_AXIS)
        page.text((corner[0] - 0.05, corner[1] + (0.3 if index > 3 else -0.3)), str(index), Z_AXIS)
    page.text((corners[2][0] + 0.2, (corners[2][1] + corners[6][1]) / 2), "h", size=18)
    page.text((4.6, 3.1), "From behind, above and right", anchor="start", size=18)


def box() -> str:
    """Draws the box convention from above and in space."""
    page = Drawing(820, 400, origin=(220, 215), scale=58)
    box_from_above(page)
    box_in_space(page)
    return page.svg()


def pixel_grid(page: Drawing, corner: Point, columns: int, rows: int, side: float) -> None:
    """Draws pixels below and right of a metric corner, with a dot at each centre."""
    for row in range(rows):
        for column in range(columns):
            low = (corner[0] + column * side, corner[1] - (row + 1) * side)
            page.rectangle(low, (low[0] + side, low[1] + side), MARK if row == column == 0 else FILL, FAINT, 1)
            page.circle((low[0] + side / 2, low[1] + side / 2), 2.5, FAINT)


def pixels() -> str:
    """Draws where pixel (0, 0) lies and what a resize by one half does to it."""
    page = Drawing(840, 380, origin=(100, 110), scale=50)
    pixel_grid(page, (0, 0), 6, 4, 1.0)
    axes(page, (0.5, -0.5), ("u", X_AXIS, 0.0), ("v", Y_AXIS, -math.pi / 2), 1.5)
    page.circle((0.5, -0.5), 4)
    page.line((0.5, -0.5), (0.1, 0.55), FAINT, 1)
    page.text((-0.3, 0.75), "(0, 0): the centre of the top-left pixel", anchor="start")
    page.circle((0, 0), 4)
    page.text((-0.15, -0.25), "(-0.5, -0.5)", anchor="end", size=12)
    page.circle((6, -4), 4)
    page.text((6, -4.35), "(W - 0.5, H - 0.5)")
    page.text((3, -4.9), "as recorded: W = 6, H = 4", FAINT)

    pixel_grid(page, (8, 0), 3, 2, 2.0)
    page.circle((9, -1), 4)
    page.text((9, -1.4), "(0, 0)")
    page.line((9, -1), (9.3, 0.55), FAINT, 1)
    page.text((8, 0.75), "was (0.5, 0.5)", anchor="start")
    page.text((11, -4.9), "resized by s = 1/2: u' = s (u + 0.5) - 0.5", FAINT)
    page.text((-1.4, 1.6), "Pixels", anchor="start", size=18)
    return page.svg()


DRAWINGS: dict[str, Callable[[], str]] = {
    "frames_top": frames_from_above,
    "frames_side": frames_from_the_side,
    "grid": grid_cells,
    "box": box,
    "pixels": pixels,
}


def main() -> None:
    """Writes every drawing."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    for name, draw in DRAWINGS.items():
        (folder / f"{name}.svg").write_text(draw())


if __name__ == "__main__":
    main()
