"""The explorer: a page in the browser that reconstructs images and shows where each pixel comes from.

    command       `lemmse explore`
    serving       the page's web server
    page          the layout of the page, and what its controls do
    controls      the settings of a reconstruction
    panels        maps, modes and explanations
    batch         several files
    session       what a visitor looks at, and its reconstruction; without any user interface
    images        the pictures that a visitor brings, and examples
    local         training images and operators of index folders on this machine
    pictures      arrays as pictures and colours
    downloads     the files that a visitor takes along
    viewer        the element that shows a picture: wipe, brush, cursor

The user interface is NiceGUI's, which comes with all that its pages load.
"""
