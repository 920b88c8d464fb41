"""The HTTP service: photos in, poses out, and a page that shows them among the map's points."""
